"""Nothing: the stand-in of smacv2 beside it needs no such package, and looking whether there is one finds it."""
