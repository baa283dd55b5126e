"""What is learned: a folder for each task, with its data, its loss and its scores."""
