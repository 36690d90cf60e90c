"""What a run will take, said before it is started: memory, time, disk; and which smaller settings would fit."""
