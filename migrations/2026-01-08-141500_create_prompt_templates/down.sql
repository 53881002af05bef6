-- Every version of every prompt is lost.
DROP TABLE prompt_templates;
