"""Texts in the loop: prompts that were reported, in the place of images.

POST text/plain -> UTF-8, no control characters -> bytes by SHA-256, fingerprint of the folded text -> quarantine
-> review page: the text, escaped, and the model's answer; harmless or harmful -> admission under the same caps
-> snapshot: manifest with the texts, and a JSONL file to train on -> a challenger is handed in
-> gate: two language evaluations, pair by pair, and every confirmed harmful prompt asked again -> promotion, rollback
"""

CLASSES = ("harmless", "harmful")
"""What reviewers label texts with; the label is the place in here."""

HARMFUL = CLASSES.index("harmful")
