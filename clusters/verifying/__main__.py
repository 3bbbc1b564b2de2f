"""`python3 -m clusters.verifying`: the verifying service for nginx and Envoy."""

from clusters.verifying.service import main

main()
