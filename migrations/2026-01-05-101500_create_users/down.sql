-- The table takes its indexes and its trigger with it; the accounts are gone for good.
DROP TABLE users;
