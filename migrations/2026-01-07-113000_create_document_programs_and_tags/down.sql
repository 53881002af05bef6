-- The documents stay; what they were filed under is lost.
DROP TABLE document_tags;
DROP TABLE document_programs;
