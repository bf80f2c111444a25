"""A stand-in of ours for the package smacv2: `env/starcraft2/wrapper.py` says what it can."""
