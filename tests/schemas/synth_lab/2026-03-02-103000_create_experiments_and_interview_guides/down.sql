-- The experiments and their guides are lost; nothing points at them any more.
DROP TABLE interview_guides;
DROP TABLE experiments;
