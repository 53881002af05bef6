-- The documents are lost; the empty collections stay.
DROP TABLE documents;
