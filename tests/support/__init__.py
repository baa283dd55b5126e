"""What tests share: small models, folders, sites, browsers, and commands at a size for tests."""
