"""The report of a finished run: one page and its figures, made from the files of the run folder alone."""
