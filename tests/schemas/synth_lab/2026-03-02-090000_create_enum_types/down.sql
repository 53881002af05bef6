-- Types made by hand before the up are dropped too: the up took them over, and applying it again makes the same labels.
-- There is no CASCADE, so while a column outside this tree uses one of them, this fails and drops none.
DROP TYPE node_status, exploration_status, run_status;
