from mpi_ranks import ranks

__all__ = ["ranks"]

collect_ignore = ["nccl_training.py"]  # a program for ranks: what imports it starts MPI, and looking for doctests would
