-- The scorecards and what was simulated with them are lost.
DROP TABLE simulation_runs;
DROP TABLE feature_scorecards;
