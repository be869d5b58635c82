"""Services: what holds one side of a transfer's money. The protocol, and a simulated core to try it on."""
