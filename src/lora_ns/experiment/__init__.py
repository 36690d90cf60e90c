"""An experiment file becomes its runs, without torch."""
