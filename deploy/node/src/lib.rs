//! The binary `narthex`: settings, roles, assemble, discovery, tools, self-observability.
