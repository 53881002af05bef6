-- The kept texts are lost.
DROP TABLE outputs;
