"""Select: which variant answers a request, how it matched and on what evidence."""
