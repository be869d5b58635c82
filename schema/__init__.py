"""What things are: identifiers, money, assets, records, wire structs and the SQL. Imports only msgspec and stdlib."""
