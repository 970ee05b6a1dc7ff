"""Long experiments made of the verbs' functions: which problems are worth training on (`dail curate`)."""
