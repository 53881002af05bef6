-- The styles are lost; nothing points at them any more.
DROP TABLE writing_styles;
