-- The synths are lost with their groups.
DROP TABLE synths;
DROP TABLE synth_groups;
