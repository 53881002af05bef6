-- The analyses are lost; the experiments and the synths stay.
DROP TABLE synth_outcomes;
DROP TABLE analysis_runs;
