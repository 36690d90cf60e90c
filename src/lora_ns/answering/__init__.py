"""A model asked questions: what is asked, how it answers, and what the answers are worth."""
