-- The cache fills again by itself; the insights have to be paid for again.
DROP TABLE chart_insights;
DROP TABLE analysis_cache;
