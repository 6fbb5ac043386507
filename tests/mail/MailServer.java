import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.regex.Pattern;
import org.subethamail.smtp.MessageHandler;
import org.subethamail.smtp.RejectException;
import org.subethamail.smtp.auth.EasyAuthenticationHandlerFactory;
import org.subethamail.smtp.auth.LoginFailedException;
import org.subethamail.smtp.server.SMTPServer;

/**
 * SubEthaSMTP, keeping what it accepts: `java -cp 'libs/*' MailServer.java SMTP_PORT HTTP_PORT REFUSED`. Recipients that
 * match REFUSED get 550. `GET /` answers a line for each e-mail: its user, its recipient, its bytes in base64.
 */
public final class MailServer {
    public static void main(String[] args) throws IOException {
        var accepted = new CopyOnWriteArrayList<String>();
        var refused = Pattern.compile(args[2]);
        var users = new EasyAuthenticationHandlerFactory((user, password, context) -> {
            if (!password.equals("s cret")) {
                throw new LoginFailedException();
            }
        });
        SMTPServer.port(Integer.parseInt(args[0]))
            .bindAddress(InetAddress.getLoopbackAddress())
            .authenticationHandlerFactory(users)
            .showAuthCapabilitiesBeforeSTARTTLS(true)
            .messageHandlerFactory(context -> {
                var user = context.getAuthenticationHandler().map(by -> (String) by.getIdentity()).orElse("-");
                return new Keeper(accepted, refused, user);
            })
            .build()
            .start();

        // Last: who gets an answer here finds the other port open.
        var http = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), Integer.parseInt(args[1])), 0);
        http.createContext("/", exchange -> {
            var body = String.join("", accepted).getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(200, body.length == 0 ? -1 : body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        http.start();
    }

    private static final class Keeper implements MessageHandler {
        private final List<String> accepted;
        private final Pattern refused;
        private final String user;
        private String recipient;

        Keeper(List<String> accepted, Pattern refused, String user) {
            this.accepted = accepted;
            this.refused = refused;
            this.user = user;
        }

        @Override
        public void from(String from) {}

        @Override
        public void recipient(String to) throws RejectException {
            if (refused.matcher(to).find()) {
                throw new RejectException(550, "no such mailbox here");
            }
            recipient = to;
        }

        @Override
        public String data(InputStream data) throws IOException {
            var bytes = Base64.getEncoder().encodeToString(data.readAllBytes());
            accepted.add(user + " " + recipient + " " + bytes + "\n");
            return null;
        }

        @Override
        public void done() {}
    }
}
