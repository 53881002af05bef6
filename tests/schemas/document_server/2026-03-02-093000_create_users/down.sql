-- The accounts are gone for good.
DROP TABLE users;
