"""From a checkpoint to a bundle: the actors only, one ONNX graph an agent."""
