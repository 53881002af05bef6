-- The interviews are lost.
DROP TABLE transcripts;
DROP TABLE research_executions;
