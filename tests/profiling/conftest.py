from small_runs import new_run, text_file

__all__ = ["new_run", "text_file"]
