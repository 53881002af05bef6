-- The reports are lost; they can be written again from the runs.
DROP TABLE experiment_documents;
