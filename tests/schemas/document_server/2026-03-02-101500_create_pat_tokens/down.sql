-- Every client has to be given a new token.
DROP TABLE pat_tokens;
