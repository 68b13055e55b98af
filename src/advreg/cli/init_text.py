"""The text of a run.toml with a comment above every section; ``<key>`` marks what `advreg.cli.init` fills in."""

from __future__ import annotations

TEXT = """\
# A training run of advreg. Train:        advreg train THIS_FILE
# Change a key for one run:               advreg train THIS_FILE --set train.epochs=3
# Measure the result:                     advreg evaluate RUN
# A missing key has its default; an unknown key is an error.

seed = 0                      # of all random draws; equal files on equal machines give equal bytes
<features>
<network>[model]
name = <model>
weights = ""                  # a safetensors file or state dict to start from; "" starts from random weights
options = { <options> }       # for the network's constructor

# Which data. folder:PATH?size=64 reads PATH/<class>/<image>.png, or PATH/train and PATH/test with classes inside;
# npz:FILE holds x, y, x_test, y_test; csv:FILE?label=COLUMN is a table; also mnist, fashion-mnist, cifar10,
# torchvision:NAME, hf:NAME, pkg.module:factory.
<remark>[data]
name = <data>
validation = <validation>             # TRAINING examples held out to select the best epoch; never test examples
augment = "none"              # "crop-flip" for photographs
stream = <stream>                # true reads a folder batch by batch, where its images do not fit into memory

<what>[threat]
norm = <norm>
eps = <eps>
box = <box>              # lowest and highest valid value of an input

# The inner attack of training. "pgd" with 10 steps is the safe choice; "n-fgsm" and "fgsm" cost at most a fifth of it and
# need monitoring for catastrophic overfitting (train.guard).
[attack]
name = "pgd"
steps = 10
step_size = "auto"            # 2.5 eps / steps

# The eps of each example at each step: "fixed", or "warmup" and others where training does not start to learn.
[policy]
name = "fixed"

# The loss. "madry" trains on attacked examples only; "trades" balances clean and robust accuracy by options = { beta = 6.0 };
# "mixed" keeps a share of clean examples for more clean accuracy.
[recipe]
name = "madry"

# The optimizer of the weights.
[optimizer]
name = "sgd"
lr = 0.05
momentum = 0.9
weight_decay = 5e-4

# The learning rate from the first step to the last.
[schedule]
name = "cosine"

# The average of the weights: "none", "ema" or "swa"; an average often gains a point or two of robust accuracy.
[average]
name = "none"

# Length, batch size and output. An epoch costs attack.steps + 1 times that of standard training; advreg doctor
# --run THIS_FILE estimates the time.
[train]
epochs = 30
batch_size = <batch>
drop_last = <drop>             # whether an epoch leaves out its last batch where that is smaller
guard = "warn"                # warns when training collapses; "repair" rolls back and changes the attack
device = "auto"               # the first accelerator, or the CPU
out = "runs/mine"
"""

PIXELS = """\
# The threat model. linf: every pixel may change by eps; l2: length of the whole change; l1: its sum. Pixels are in [0, 1],
# so 8/255 is eight of 255 grey levels. `advreg epsilon MODEL` helps to choose: a change should not be visible at a glance.
"""

VALUES = """\
# The threat model. linf: every <value> may change by eps; l2: length of the whole change; l1: its sum; snr: l2 at a ratio to
# each signal, eps in dB. Eps counts in the units of the data: choose a change that leaves the label as it is.
"""

NETWORKS = {
    "pixels": """\
# Which network. zoo:mnist-small for a first try without a GPU, zoo:preact-resnet18, zoo:wide-resnet-28-10,
# timm:resnet50.a1_in1k, torchvision:resnet18, or your own pkg.module:factory, which returns a torch.nn.Module
# that maps floats (B, C, H, W) in [0, 1] to logits and normalises inside.
""",
    "table": """\
# Which network. zoo:mlp, or your own pkg.module:factory, which returns a torch.nn.Module that maps rows of features (B, F) to
# logits and normalises inside; mean and std are of each feature.
""",
    "signal": """\
# Which network. zoo:signal-cnn, or your own pkg.module:factory, which returns a torch.nn.Module that maps signals (B, C, T) to
# logits and normalises inside; mean and std are of each channel.
""",
}

LIMITED = """\
# The threat model. Limits, units and rules of each column are in features.toml; eps counts in these units. l2: length of the
# whole change; linf: each column may change by eps units; l1: the sum of all changes. box is not used beside features.
"""

FEATURES = """
# Type, limits and unit of each column, read from the file beside this one; decide there what an adversary can change.
features = "features.toml"
"""
