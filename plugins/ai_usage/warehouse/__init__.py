"""PostgreSQL: the roles, the migrations, the ledger of slices, and the loader that fills them."""
