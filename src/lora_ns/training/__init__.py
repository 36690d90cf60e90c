"""How an adapter is trained: which rows when, the loss, the loop, and what is kept on the way."""
