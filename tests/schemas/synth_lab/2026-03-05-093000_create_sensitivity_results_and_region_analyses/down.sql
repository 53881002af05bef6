-- Both can be computed again from the simulations.
DROP TABLE region_analyses;
DROP TABLE sensitivity_results;
