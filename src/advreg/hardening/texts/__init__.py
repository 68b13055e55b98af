"""Hardening of language models: reported prompts take the place of images.

POST text/plain -> UTF-8, no control characters -> bytes by SHA-256, fingerprint of the folded text -> quarantine
-> review page: the escaped text and the model's output; harmless or harmful -> admission under the same caps
-> snapshot: manifest with the texts, and a JSONL file to train on -> a challenger is handed in
-> gate: two language evaluations, pair by pair, and every confirmed prompt queried again -> promotion, rollback
"""

CLASSES = ("harmless", "harmful")
"""The reviewers' classes of texts; a label is an index into this tuple."""

HARMFUL = CLASSES.index("harmful")
