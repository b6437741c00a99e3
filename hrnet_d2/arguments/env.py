"""Arguments of ``hrnet-d2 env``: none."""

import argparse

__all__ = ["parser"]


def parser(prog: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog, description="Print versions, hardware and threads; check the installation."
    )
