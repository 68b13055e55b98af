"""The training loop of image and of language models: one flow of data, composed of functions that both rooms call.

    configuration -> state -> run folder -> rounds -> finished run
    round:  steps (gradients -> clipping -> optimizer -> average) -> checks -> checkpoint -> files -> event

A round is what lies between two checkpoints: an epoch of image training, ``train.every`` steps of language training. The rooms
supply the gradients of a step, the checks of a round and the state of a checkpoint. This room holds the rest: `loop`,
`optimization`, `schedules`, `averaging`, `divergence`, `checkpoint`, `run_folder`, `events` and `loggers`.
"""
