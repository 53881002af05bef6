-- The settings fall back to the defaults of the application.
DROP TABLE system_config;
