"""How a call is executed: windows of its list, devices, one folio after another."""
