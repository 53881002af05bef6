-- Only the descriptions go; the files themselves lie elsewhere.
DROP TABLE documents;
