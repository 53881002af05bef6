-- The collections are lost; by now they hold no documents.
DROP TABLE collections;
DROP TABLE cat;
