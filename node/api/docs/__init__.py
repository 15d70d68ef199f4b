"""The API's description: `/openapi.json` for programs, `/docs` for people, made from the routes and their bodies."""
