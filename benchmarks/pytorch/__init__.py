"""The networks in PyTorch, a module each, named as `model_name`: `Network()` is images -> (boxes, logits)."""
