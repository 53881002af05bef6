-- The explorations are lost with their trees.
DROP TABLE scenario_nodes;
DROP TABLE explorations;
