// Receives dispatchd's webhooks. Java 11 or newer, nothing to install.
//
//     WEBHOOK_SECRET=whsec_... PORT=8000 java Receive.java

import com.sun.net.httpserver.Headers;
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.Base64;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class Receive {
    static final long TOLERANCE = 300; // seconds that the timestamp may be away from our clock
    static final Set<String> seen = ConcurrentHashMap.newKeySet(); // in real life: a table with a unique key

    /** Returns whether the body was signed with our key, not long ago. */
    static boolean verify(byte[] key, Headers headers, byte[] body) throws Exception {
        String id = headers.getFirst("webhook-id"), stamp = headers.getFirst("webhook-timestamp");
        String signatures = headers.getFirst("webhook-signature");
        if (id == null || signatures == null || stamp == null || !stamp.matches("[0-9]{1,15}")) return false;
        if (Math.abs(System.currentTimeMillis() / 1000 - Long.parseLong(stamp)) > TOLERANCE) return false;
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        mac.update((id + "." + stamp + ".").getBytes(StandardCharsets.UTF_8));
        // The bytes as they came: JSON that was parsed and written anew has another signature.
        byte[] want = ("v1," + Base64.getEncoder().encodeToString(mac.doFinal(body))).getBytes(StandardCharsets.UTF_8);
        // There are two signatures while the secret is being changed: one must fit.
        boolean good = false;
        for (String one : signatures.split(" ")) {
            good |= MessageDigest.isEqual(want, one.getBytes(StandardCharsets.UTF_8));
        }
        return good;
    }

    public static void main(String[] args) throws Exception {
        byte[] key = Base64.getDecoder().decode(System.getenv("WEBHOOK_SECRET").substring("whsec_".length()));
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(System.getenv("PORT"))), 0);
        server.createContext("/", exchange -> {
            byte[] body = exchange.getRequestBody().readAllBytes();
            boolean good = false;
            try {
                good = exchange.getRequestMethod().equals("POST") && verify(key, exchange.getRequestHeaders(), body);
            } catch (Exception e) {
                System.err.println(e);
            }
            if (good && seen.add(exchange.getRequestHeaders().getFirst("webhook-id"))) {
                // Only put it into a queue here: answer first, work afterwards. Use your JSON library.
                String text = new String(body, StandardCharsets.UTF_8);
                System.out.println(field(text, "type") + " " + field(text, "orcid"));
            }
            exchange.sendResponseHeaders(good ? 204 : 401, -1);
            exchange.close();
        });
        server.start();
    }

    static String field(String json, String name) {
        Matcher m = Pattern.compile("\"" + name + "\":\"([^\"]*)\"").matcher(json);
        return m.find() ? m.group(1) : "";
    }
}
