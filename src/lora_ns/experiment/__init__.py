"""An experiment file -> its runs, without torch."""
