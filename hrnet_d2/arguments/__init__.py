"""What the commands take: one module per command, of the standard library alone.

Detectron2 and PyTorch take seconds to import. Nothing here needs them, so that help and errors of
arguments come at once; :mod:`hrnet_d2.cli` has what the commands do.
"""
