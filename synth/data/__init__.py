"""Expert solutions and problems as they are published: files, folders and hub sets, in their own columns, to items."""
