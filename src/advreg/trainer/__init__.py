"""What training of image and of language models shares: run folders that are resumed, and checkpoints."""
