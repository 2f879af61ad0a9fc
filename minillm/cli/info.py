"""minillm info"""


def command() -> None:
    """Versions, the BLAS and its threads, and the devices at hand: what to say with a bug report or a benchmark."""
    from minillm.info import describe

    for name, value in describe().items():
        print(f"{name:<14} {value}")
