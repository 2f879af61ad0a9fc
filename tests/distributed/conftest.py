from mpi_ranks import ranks

__all__ = ["ranks"]
