// The API reference: the server's own document, drawn by the Swagger UI that lies beside this file.
const DOCUMENT = "/api/v1/docs/openapi.json";

fetch(DOCUMENT)
  .then((answer) => answer.json())
  .then((spec) => {
    // Every path is there in two forms; the one whose organisation comes from the key is enough to read.
    for (const path of Object.keys(spec.paths)) {
      if (path.startsWith("/api/v1/orgs/{")) delete spec.paths[path];
    }
    window.SwaggerUIBundle({
      spec,
      dom_id: "#reference",
      deepLinking: true,
      docExpansion: "none",
      filter: true,
      // Its validator is somebody else's server.
      validatorUrl: null,
    });
  });
